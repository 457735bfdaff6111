"""What runs in the lmms_eval environment. Needs none of prism's own dependencies but pyarrow."""
