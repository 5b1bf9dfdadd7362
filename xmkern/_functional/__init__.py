"""The public calls behind ``xmkern.functional``, one file a family."""
