"""The losses over a matrix that is written out, as one would in plain PyTorch; independent of the code under test.

Matrices are multiplied in the dtype of the operands, and all else is float32, or float64 for float64.
"""

import torch
import torch.nn.functional as F


def logits(x, y, scale=1.0, bias=None, normalize=False):
    if normalize:
        x, y = F.normalize(x), F.normalize(y)
    z = (x @ y.mT).to(torch.float64 if x.dtype == torch.float64 else torch.float32) * scale
    return z if bias is None else z + bias


def averaged(losses, reduction, counted=None):
    if reduction == "none":
        return losses
    count = len(losses) if counted is None else int(counted.sum())
    return losses.sum() / (max(count, 1) if reduction == "mean" else 1)


def own_columns(labels, rows, device=None):
    if isinstance(labels, torch.Tensor):
        return labels
    return torch.arange(rows, device=device) + (labels or 0)


def info_nce(
    x, y, logit_scale, logit_bias=None, labels=None, negatives=None, label_smoothing=0.0, symmetric=True,
    reduction="mean", return_lse=False, normalize=False,
):  # fmt: skip
    own = own_columns(labels, len(x))
    row_queue, column_queue = negatives if isinstance(negatives, tuple) else (negatives, None)

    def one_way(x, y, queue, own):
        parts = [logits(x, part, logit_scale, logit_bias, normalize) for part in (y, queue) if part is not None]
        z = torch.cat(parts, 1)
        outside = (own < 0) | (own >= len(y))
        if z.shape[1] == 0:
            return z.sum(1), z.logsumexp(1), ~outside
        losses = F.cross_entropy(
            z, own.masked_fill(outside, -100), label_smoothing=label_smoothing, reduction="none"
        )  # fmt: skip
        return losses, z.logsumexp(1), ~outside

    losses, lse, counted = one_way(x, y, row_queue, own)
    if not symmetric:
        loss = averaged(losses, reduction, counted)
        return (loss, lse) if return_lse else loss
    of_columns, column_lse, _ = one_way(y, x, column_queue, own.argsort())
    loss = averaged((losses + of_columns[own]) / 2, reduction)
    return (loss, lse, column_lse) if return_lse else loss


def soft_cross_entropy(z, target):
    """Against a target that need not sum to 1: rows of zeros give 0."""
    some = target.any(1)
    share = target / target.sum(1, keepdim=True).clamp(min=1)
    log_p = z.masked_fill(~target.any(0) & ~target.any(1)[:, None], 0) if z.numel() == 0 else z.log_softmax(1)
    return -torch.where(target > 0, share * log_p, 0).sum(1), some


def multi_positive_info_nce(
    x, y, logit_scale, x_ids, y_ids, same_class="positive", symmetric=True, reduction="mean", return_lse=False,
    normalize=False,
):  # fmt: skip
    z, same = logits(x, y, logit_scale, None, normalize), x_ids[:, None] == y_ids
    target = same
    if same_class == "hidden":
        target = torch.arange(len(x))[:, None] == torch.arange(len(y))
        z = z.masked_fill(same & ~target, -torch.inf)
    loss = averaged(*_ordered(soft_cross_entropy(z, target.to(z)), reduction))
    lses = (z.logsumexp(1),)
    if symmetric:
        loss = (loss + averaged(*_ordered(soft_cross_entropy(z.mT, target.mT.to(z)), reduction))) / 2
        lses = (*lses, z.logsumexp(0))
    return (loss, *lses) if return_lse else loss


def _ordered(found, reduction):
    losses, some = found
    return losses, reduction, some


def mil_nce(
    x, y, logit_scale, x_ids=None, y_ids=None, denominator="joint", reduction="mean", normalize=False
):  # fmt: skip
    z = logits(x, y, logit_scale, None, normalize)
    if x_ids is None:
        x_ids, y_ids = torch.arange(len(x)), torch.arange(len(y)) // max(len(y) // max(len(x), 1), 1)
    positive = x_ids[:, None] == y_ids

    def one_way(z, positive, denominators=None):
        some = positive.any(1)
        pooled = torch.where(positive, z, -torch.inf)[some].logsumexp(1)
        every = z[some].logsumexp(1) if denominators is None else denominators[some]
        losses = z.new_zeros(len(z)).index_put((some.nonzero()[:, 0],), every - pooled)
        return averaged(losses, reduction, some)

    if denominator == "joint":
        # Row i, and the other rows' pairs with the columns of its positives.
        others = ~torch.eye(len(x), dtype=torch.bool)
        pairs = [torch.cat([z[i], z[others[i]][:, positive[i]].flatten()]) for i in range(len(x))]
        return one_way(z, positive, torch.stack([row.logsumexp(0) for row in pairs]))
    loss = one_way(z, positive)
    return (loss + one_way(z.mT, positive.mT)) / 2 if denominator == "separate" else loss


def sigmoid_contrastive(
    x, y, logit_scale, logit_bias=None, labels=None, x_ids=None, y_ids=None, reduction="mean", normalize=False
):  # fmt: skip
    z = logits(x, y, logit_scale, logit_bias, normalize)
    if x_ids is None:
        x_ids, y_ids = own_columns(labels, len(x)), torch.arange(len(y))
    sign = torch.where(x_ids[:, None] == y_ids, 1.0, -1.0).to(z)
    return averaged(-F.logsigmoid(sign * z).sum(1), reduction)


def distillation(
    x, y, logit_scale, teacher_x, teacher_y, teacher_scale, symmetric=True, reduction="mean", normalize=False
):  # fmt: skip
    z = logits(x, y, logit_scale, None, normalize)
    z_teacher = logits(teacher_x, teacher_y, teacher_scale, None, normalize)

    def one_way(z, z_teacher):
        log_q, log_p = z.log_softmax(1), z_teacher.log_softmax(1)
        return averaged(F.kl_div(log_q, log_p, log_target=True, reduction="none").sum(1), reduction)

    loss = one_way(z, z_teacher)
    return (loss + one_way(z.mT, z_teacher.mT)) / 2 if symmetric else loss


def ranking_loss(
    x, y, margin, mode="sum", labels=None, x_ids=None, y_ids=None, symmetric=True, logit_scale=1.0, reduction="mean",
    normalize=False,
):  # fmt: skip
    z, own = logits(x, y, logit_scale, None, normalize), own_columns(labels, len(x))
    counted = (own >= 0) & (own < len(y))
    positive = own[:, None] == torch.arange(len(y))
    rival = ~positive if x_ids is None else ~positive & (x_ids[:, None] != y_ids)

    def one_way(z, positive, rival):
        mine = torch.where(positive, z, 0).sum(1, keepdim=True)
        over = torch.where(rival & counted[:, None], margin - mine + z, 0).relu()
        if mode == "sum":
            return over.sum(1)
        if mode == "hardest":
            return over.max(1).values if z.shape[1] else over.sum(1)
        harmonic = torch.cat([z.new_zeros(1), (1 / torch.arange(1, z.shape[1] + 1).to(z)).cumsum(0)])
        rank = (over > 0).sum(1)
        return over.sum(1) * harmonic[rank] / rank.clamp(min=1)

    losses = one_way(z, positive, rival)
    if symmetric:
        losses = losses + one_way(z.mT, positive.mT, rival.mT)
    return averaged(losses, reduction, counted)


def hash_likelihood(
    f, g, f_ids=None, g_ids=None, relevance=None, quantization=0.0, balance=0.0, codes=None, reduction="mean"
):  # fmt: skip
    theta = logits(f, g, 0.5)
    related = (f_ids[:, None] == g_ids if relevance is None else relevance).to(theta)
    loss = (F.softplus(theta, threshold=100) - related * theta).sum()
    wide_f, wide_g = f.to(theta.dtype), g.to(theta.dtype)
    if quantization:
        codes = torch.where(wide_f + wide_g >= 0, 1.0, -1.0) if codes is None else codes
        loss = loss + quantization * ((codes - wide_f).square().sum() + (codes - wide_g).square().sum())
    loss = loss + balance * (wide_f.sum(0).square().sum() + wide_g.sum(0).square().sum())
    return loss / max(len(f) * len(g), 1) if reduction == "mean" else loss


def cosine_max_margin(f, g, margin, f_ids=None, g_ids=None, relevance=None, reduction="mean"):
    z = logits(f, g, normalize=True)
    related = f_ids[:, None] == g_ids if relevance is None else relevance
    loss = (margin - torch.where(related, z, -z)).relu().sum()
    return loss / max(len(f) * len(g), 1) if reduction == "mean" else loss
