"""The repository on the Hub: publishing a release, verifying one, and gathering several.

publish.py      from a checked folder to a tagged commit that is known to hold it; and what that would do
verify.py       a release downloaded anew and compared
collections.py  several repositories in one collection
receipt.py      what a release left behind, in the run

target.py       where a release goes, and whether the token may put it there
state.py        what the Hub has; comparison.py: how that differs from the release
upload.py       bytes first, then one commit; lost answers
repository.py   a repository, over client.py: timeouts, bounded retries; failures.py: errors in words
"""
