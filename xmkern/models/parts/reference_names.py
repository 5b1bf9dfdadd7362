"""Parts under the names of other libraries, for ``reference_names``; each list goes through all names."""

# BERT's: a post-norm block of :class:`xmkern.nn.TransformerBlock`.
LAYER_NAMES = (
    (r"attention\.self\.([qkv])(uery|ey|alue)", r"attention.\1"),
    (r"attention\.output\.dense", "attention.out"),
    (r"attention\.output\.LayerNorm", "norms.0"),
    (r"intermediate\.dense", "feed_forward.up"),
    (r"\.output\.dense", ".feed_forward.down"),
    (r"\.output\.LayerNorm", ".norms.1"),
)

# Of a system whose :class:`WordEmbedding` is ``words``.
WORD_NAMES = (
    (r"^.*position_ids$", ""),
    (r"^(\w+\.)?embeddings\.word_embeddings", "words.word"),
    (r"^(\w+\.)?embeddings\.position_embeddings", "words.place"),
    (r"^(\w+\.)?embeddings\.token_type_embeddings", "words.segment"),
    (r"^(\w+\.)?embeddings\.LayerNorm", "words.norm"),
)

# Of one whose :class:`WordHead` is ``word_head`` and whose matching is ``match_head``.
HEAD_NAMES = (
    (r"^cls\.predictions\.transform\.dense", "word_head.transform"),
    (r"^cls\.predictions\.transform\.LayerNorm", "word_head.norm"),
    (r"^cls\.predictions\.decoder", "word_head.word"),
    (r"^cls\.predictions\.bias", "word_head.word.bias"),
    (r"^cls\.seq_relationship", "match_head"),
)

# CLIP's: its pre-norm blocks, whatever stands around them, and the picture's tower.
CLIP_NAMES = (
    (r"^.*position_ids$", ""),
    (r"^vision_model\.embeddings\.patch_embedding", "patches.patch"),
    (r"^vision_model\.embeddings\.class_embedding", "patches.class_token"),
    (r"^vision_model\.embeddings\.position_embedding\.weight", "patches.place"),
    (r"^vision_model\.pre_layrnorm", "before"),
    (r"^vision_model\.post_layernorm", "vision.norm"),
    (r"^(vision|text)_model\.encoder\.layers\.(\d+)", r"\1.blocks.\2"),
    (r"self_attn\.([qkv])_proj", r"attention.\1"),
    (r"self_attn\.out_proj", "attention.out"),
    (r"layer_norm1", "norms.0"),
    (r"layer_norm2", "norms.1"),
    (r"mlp\.fc1", "feed_forward.up"),
    (r"mlp\.fc2", "feed_forward.down"),
)
