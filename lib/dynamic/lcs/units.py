"""The decision unit of a layer: from its pooled input to one of m channel masks."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib.dynamic.errors import DynamicError

FORMS = ("stated", "standardised")
MOST = 5.0  # masks are kept in [0, MOST]
SLOWEST = 0.05  # share of a batch in the running statistics, once enough batches are seen


class DecisionUnit(nn.Module):
    """p = softmax(W GAP(ReLU(x))) over m masks of a layer's output channels.

    `stated` is the source's form: rows of W of length one, no bias. The pooled input is then dominated by its mean, so
    that most images get the same mask. `standardised` is ours: pooled features lose their running mean and are divided
    by their running deviation first, and the logits are scaled.

    Args:
        inputs: channels of the layer's input.
        outputs: channels of its output.
        masks: m, how many masks there are to choose from; 2 or more.
        form: "stated" or "standardised".
        logit_scale: factor of the logits; above 0. The source has none: 1.
        generator: CPU generator of the first weights; None: torch's global state.

    Attributes:
        weight: W, (m, inputs).
        masks: (m, outputs), all one at the start.

    Raises: DynamicError for a form that does not exist, fewer than two masks, a scale that is not above 0.
    Source: Wang et al., AAAI 2020, doi 10.1609/aaai.v34i04.6098, and the authors' released code (the L2 norm of rows).
    """

    mean: Tensor
    variance: Tensor
    seen: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        masks: int = 5,
        form: str = "stated",
        logit_scale: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if form not in FORMS:
            raise DynamicError(f"form is {form!r}: one of {', '.join(FORMS)}")
        if masks < 2:
            raise DynamicError(f"masks is {masks}: a decision needs 2 or more to choose from")
        if logit_scale <= 0:
            raise DynamicError(f"logit_scale is {logit_scale}: a number above 0")
        self.form, self.logit_scale = form, float(logit_scale)
        self.weight = nn.Parameter(torch.randn(masks, inputs, generator=generator))
        self.masks = nn.Parameter(torch.ones(masks, outputs))
        if form == "standardised":
            self.register_buffer("mean", torch.zeros(inputs))
            self.register_buffer("variance", torch.ones(inputs))
            self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        self.normalise()

    def extra_repr(self) -> str:
        (masks, inputs), outputs = self.weight.shape, self.masks.shape[1]
        return f"{inputs} -> {masks} masks of {outputs}, {self.form}, logit_scale={self.logit_scale:g}"

    @torch.no_grad()
    def normalise(self) -> None:
        """Bring the rows of W to length one, and the masks into [0, 5]: after every step of their optimiser."""
        self.weight.div_(self.weight.norm(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny))
        self.masks.clamp_(0, MOST)

    def pooled(self, x: Tensor) -> Tensor:
        """GAP(ReLU(x)) in the weights' type, (N, inputs), standardised where the form is; in training the running
        mean and deviation take in the batch first."""
        values = x.to(self.weight.dtype).relu().mean(dim=(2, 3))
        if self.form == "stated":
            return values
        if self.training:
            self._take_in(values.detach())
        return (values - self.mean) * (self.variance + 1e-5).rsqrt()

    def forget(self) -> None:
        """Start the running mean and deviation anew; nothing in the stated form."""
        if self.form == "standardised":
            self.seen.zero_()

    @torch.no_grad()
    def _take_in(self, values: Tensor) -> None:
        self.seen += 1
        share = torch.clamp(1 / self.seen.to(values.dtype), min=SLOWEST)
        self.mean.lerp_(values.mean(0), share)
        self.variance.lerp_(values.var(0, unbiased=False), share)

    def logits(self, x: Tensor) -> Tensor:
        """Scores of the masks.

        Args: x: the layer's input, (N, inputs, H, W).
        Returns: float32 (N, m).
        """
        with torch.autocast(x.device.type, enabled=False):  # near-ties must not be decided by bfloat16
            return self.logit_scale * F.linear(self.pooled(x), self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Probabilities of the masks, float32 (N, m), of the layer's input (N, inputs, H, W)."""
        return self.logits(x).softmax(1)
