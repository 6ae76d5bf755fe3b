"""Single-line breakages of the sources, spread over all parts, and the test that must see each.

A list (``*.toml``) that shows what the tests are worth: were a part's tests thinned out, one of
these would no longer be caught. ``python -m tests.breakages`` applies each in a copy of the
sources, runs the one test that is named there, and takes it back; so does a nightly test.
"""
