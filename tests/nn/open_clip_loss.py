"""open_clip's own loss classes: the package's other modules need torchvision and more, the losses torch alone."""

import importlib.util
from pathlib import Path

_package = importlib.util.find_spec("open_clip")
assert _package is not None
assert _package.origin is not None
_spec = importlib.util.spec_from_file_location("open_clip_loss", Path(_package.origin).with_name("loss.py"))
assert _spec is not None
assert _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)

ClipLoss, SigLipLoss = _module.ClipLoss, _module.SigLipLoss
