"""The page of ``movinet-convert demo``. Needs the extra [demo]."""
