"""The engines that sample the policy."""
