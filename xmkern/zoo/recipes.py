"""How each system is trained: on which task, for how long, and by how much it must beat the baseline."""

from dataclasses import dataclass, field
from typing import Any

from xmkern.models import create_model
from xmkern.zoo.tasks import TASKS, Task


@dataclass(frozen=True)
class Recipe:
    """Within two minutes on two cores.

    Attributes:
        task: a name of :data:`xmkern.zoo.tasks.TASKS`.
        margin: by how much the metric must exceed the baseline (in the metric's own unit).
        steps, batch, rate, weight_decay, betas: of AdamW, whose rate rises for a tenth of the steps and then
            falls to nothing.
        paces: parts of the model, by the start of their names, and how many times that rate they learn at.
        fit: how many rows a closed form is solved on, by the model's ``fit(batch)`` after the steps; 0 for none.
        settings: arguments of the task.
        overrides: fields of the configuration that the task asks for, beside the preset "tiny".
    """

    task: str
    margin: float
    steps: int = 300
    batch: int = 64
    rate: float = 1e-3
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.98)
    paces: dict[str, float] = field(default_factory=dict)
    fit: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    overrides: dict[str, Any] = field(default_factory=dict)

    def make_task(self, seed: int) -> Task:
        return TASKS[self.task](seed, **self.settings)

    def make_model(self, name: str) -> Any:
        return create_model(name, "tiny", **self.overrides)


RECIPES: dict[str, Recipe] = {
    # A. Joint representations
    "bimodal_ae": Recipe("imagination", margin=0.05, steps=800, batch=128, rate=3e-3),
    "multimodal_dbm": Recipe("retrieval", margin=0.05, steps=600, batch=128, rate=3e-3, paces={"text.lower": 3.0}),
    "rbm": Recipe("density", margin=0.2, steps=1000, batch=128),
    # B. Coordinated representations
    "cca": Recipe("retrieval", margin=0.12, steps=0, fit=1600),
    "dcca": Recipe("retrieval", margin=0.10, steps=100, batch=512, fit=1600),
    "dcmh": Recipe("hashing", margin=0.10, steps=300, batch=128),
    "devise": Recipe("zero_shot", margin=0.10, steps=300, batch=128),
    "dual_encoding": Recipe("retrieval", margin=0.15, steps=500, batch=128),
    "dvsh": Recipe("hashing", margin=0.07, steps=300, batch=128, rate=2e-3),
    "kcca": Recipe("retrieval", margin=0.12, steps=0, fit=1000),
    "uvse": Recipe("retrieval", margin=0.12, steps=500, batch=128),
    "wsabie": Recipe("annotation", margin=0.05, steps=300, batch=128),
    # C and D, transformer encoders
    "align": Recipe("retrieval", margin=0.10, steps=300, batch=128),
    "clip": Recipe("retrieval", margin=0.10, steps=280, batch=128),
    "cots": Recipe("retrieval", margin=0.10, steps=420, batch=96),
    "filip": Recipe("retrieval", margin=0.10, steps=300, batch=128),
    "lxmert": Recipe("questions", margin=0.10, steps=800, batch=64),
    "uniter": Recipe("questions", margin=0.10, steps=800, batch=64),
    "videobert": Recipe("actions", margin=0.20, steps=1000, batch=64),
    "vilbert": Recipe("questions", margin=0.10, steps=800, batch=64),
    "vilt": Recipe("questions", margin=0.10, steps=400, batch=64),
    "visualbert": Recipe("questions", margin=0.10, steps=800, batch=64),
    # E. Decoders and encoder-decoders
    "dalle": Recipe("likelihood", margin=0.03, steps=380, batch=48, rate=1.5e-3),
    "git": Recipe("captions", margin=0.05, steps=700),
    "gpt": Recipe("translation", margin=0.10, steps=480, rate=2e-3),
    "unified_vlp": Recipe("captions", margin=0.05, steps=800),
    "vl_t5": Recipe("captions", margin=0.05, steps=800),
    "vqvae": Recipe("reconstruction", margin=0.50, steps=800),
    # F. Image and video to text
    "cnn_rnn": Recipe("captions", margin=0.05, steps=400),
    "duda": Recipe("changes", margin=1.0, steps=600),
    "hiecoatt": Recipe("questions", margin=0.10, steps=800),
    "oda": Recipe("questions", margin=0.10, steps=800),
    "s2vt": Recipe("clips", margin=1.0, steps=900, batch=32),
    # G. Generation
    "attngan": Recipe(
        "text_to_image", margin=0.03, steps=700, rate=1e-3, weight_decay=0.0, betas=(0.5, 0.98), batch=32
    ),
    "ddpm": Recipe("pictures", margin=1.0, steps=700, batch=32, rate=2e-3, weight_decay=0.01),
    "df_gan": Recipe(
        "text_to_image",
        margin=0.03,
        steps=540,
        batch=32,
        rate=3e-4,
        weight_decay=0.0,
        betas=(0.0, 0.9),
        paces={"discriminator": 8.0, "sentence": 16.0, "regions": 16.0},
    ),
    "gan": Recipe(
        "pictures", margin=1.0, steps=800, rate=2e-4, weight_decay=0.0, betas=(0.5, 0.98), paces={"generator": 10.0}
    ),
    "glide": Recipe("text_to_image", margin=0.03, steps=550, batch=32, rate=2e-3, weight_decay=0.01),
    "wgan_gp": Recipe("pictures", margin=1.0, steps=540, batch=32, rate=1e-3, weight_decay=0.0, betas=(0.0, 0.9)),
}
