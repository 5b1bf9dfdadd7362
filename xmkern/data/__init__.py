"""Real data that needs no download beyond pip: ``xmkern.data.emoji`` (OpenMoji pictures with CLDR names)."""
