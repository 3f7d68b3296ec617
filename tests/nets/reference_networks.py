"""The networks of other Re-ID projects, written down again from their papers: what a conversion is compared with.

Names of layers and the arithmetic around them are the projects'; each takes images in [0, 1] and normalises itself.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
RESNET_WIDTHS = (8, 16, 24, 32)


def shake(network: nn.Module) -> nn.Module:
    """Give every tensor, statistics of batch norm included, a value of its own, such that images make a difference."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if not tensor.is_floating_point():
                continue
            noise = torch.rand(tensor.shape, generator=generator) - 0.5
            if tensor.ndim < 2:
                tensor.copy_(1 + noise if name.endswith(("weight", "running_var")) else noise * 0.2)
            else:
                scale = (24 / max(tensor[0].numel(), 1)) ** 0.5 if name.endswith("weight") else 1.0
                tensor.copy_(noise * scale)
    return network.eval()


class Normalized(nn.Module):
    """Normalise, then extract features."""

    def __init__(self, statistics: tuple[tuple[float, ...], tuple[float, ...]]) -> None:
        super().__init__()
        self.statistics = [torch.tensor(values).view(3, 1, 1) for values in statistics]

    def forward(self, images: Tensor) -> Tensor:
        mean, std = self.statistics
        return self.features((images - mean) / std)

    def features(self, images: Tensor) -> Tensor:
        raise NotImplementedError


class Block(nn.Module):
    """A basic residual block."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        if stride != 1 or width_in != width:
            shortcut = nn.Conv2d(width_in, width, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(width))
        else:
            self.downsample = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (inner + self.downsample(x)).relu()


class ResNet(Normalized):
    """A narrow ResNet of two blocks a stage with its last stride, stem pooling and global pooling to choose."""

    def __init__(
        self, statistics: tuple = IMAGENET, *, last_stride: int = 1, ceil: bool = False, exponent: float | None = None
    ) -> None:
        super().__init__(statistics)
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.stem = nn.MaxPool2d(3, 2, ceil_mode=True) if ceil else nn.MaxPool2d(3, 2, 1)
        widths, strides = (64, *RESNET_WIDTHS), (1, 2, 2, last_stride)
        for stage in range(4):
            first = Block(widths[stage], widths[stage + 1], strides[stage])
            second = Block(widths[stage + 1], widths[stage + 1], 1)
            self.add_module(f"layer{stage + 1}", nn.Sequential(first, second))
        self.exponent = exponent

    def features(self, images: Tensor) -> Tensor:
        x = self.stem(self.bn1(self.conv1(images)).relu())
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        if self.exponent is None:
            return x.mean((2, 3))
        return x.clamp(min=1e-6).pow(self.exponent).mean((2, 3)).pow(1 / self.exponent)


class Attention(nn.Module):
    """Multi-head self-attention, with a bias for each pair of positions if wanted."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        weights = (scores if bias is None else scores + bias).softmax(-1)
        return self.proj((weights @ value).transpose(1, 2).flatten(2))


class ViTBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.attn = Attention(width, heads)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp["fc2"](functional.gelu(self.mlp["fc1"](self.norm2(x))))


class TransReID(Normalized):
    """A ViT of three blocks at 256x128 and its class token; with a jigsaw branch a copy of the last block counts."""

    def __init__(self, *, jigsaw: bool = False) -> None:
        super().__init__(HALF)
        width, heads = 192, 3
        self.base = nn.Module()
        self.base.patch_embed = nn.Module()
        self.base.patch_embed.proj = nn.Conv2d(3, width, 16, 16)
        self.base.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.base.pos_embed = nn.Parameter(torch.zeros(1, 16 * 8 + 1, width))
        self.base.blocks = nn.Sequential(*(ViTBlock(width, heads) for _ in range(3)))
        self.base.norm = nn.LayerNorm(width, eps=1e-6)
        self.jigsaw = jigsaw
        if jigsaw:
            self.b1, self.b2 = (nn.Sequential(ViTBlock(width, heads), nn.LayerNorm(width, eps=1e-6)) for _ in range(2))
            self.classifier_1, self.bottleneck_1 = nn.Linear(width, 5, bias=False), nn.BatchNorm1d(width)
        self.classifier, self.bottleneck = nn.Linear(width, 5, bias=False), nn.BatchNorm1d(width)

    def features(self, images: Tensor) -> Tensor:
        patches = self.base.patch_embed.proj(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.base.cls_token.expand(len(patches), -1, -1), patches], 1) + self.base.pos_embed
        if self.jigsaw:
            return self.b1(self.base.blocks[:-1](x))[:, 0]
        return self.base.norm(self.base.blocks(x))[:, 0]


class WindowBlock(nn.Module):
    """A Swin block that pads its map with zeros to whole windows and always shifts, under mmcv's names."""

    def __init__(self, width: int, heads: int, side: int, shift: int) -> None:
        super().__init__()
        self.side, self.shift = side, shift
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.Module()
        self.attn.w_msa = Attention(width, heads)
        self.attn.w_msa.relative_position_bias_table = nn.Parameter(torch.zeros((2 * side - 1) ** 2, heads))
        inner = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU())
        self.ffn = nn.ModuleDict({"layers": nn.Sequential(inner, nn.Linear(4 * width, width))})

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._windows(self.norm1(x))
        return x + self.ffn["layers"](self.norm2(x))

    def _windows(self, x: Tensor) -> Tensor:
        (height, width), side, shift = x.shape[1:3], self.side, self.shift
        x = functional.pad(x, (0, 0, 0, -width % side, 0, -height % side))
        rows, columns = x.shape[1:3]
        region = torch.zeros(rows, columns)
        for axis, length in enumerate((rows, columns)):  # which parts of a shifted map were neighbours before
            steps = torch.arange(length)
            part = (steps >= length - side).long() + (steps >= length - shift).long() if shift else 0 * steps
            region += part.view(-1, 1) * 10 if axis == 0 else part
        x = x.roll((-shift, -shift), (1, 2))
        windows, parts = self._cut(x), self._cut(region[None, :, :, None])[..., 0]
        apart = (parts[:, None, :] != parts[:, :, None]).float() * -100.0
        bias = self._bias()[None] + apart[:, None].repeat(len(x), 1, 1, 1)
        out = self.attn.w_msa(windows, bias)
        out = out.unflatten(0, (len(x), rows // side, columns // side)).unflatten(3, (side, side))
        out = out.transpose(2, 3).flatten(3, 4).flatten(1, 2).roll((shift, shift), (1, 2))
        return out[:, :height, :width]

    def _cut(self, x: Tensor) -> Tensor:
        x = x.unflatten(2, (-1, self.side)).unflatten(1, (-1, self.side)).transpose(2, 3)
        return x.flatten(1, 2).flatten(2, 3).flatten(0, 1)

    def _bias(self) -> Tensor:
        side = self.side
        place = torch.cartesian_prod(torch.arange(side), torch.arange(side))
        offset = place[:, None] - place[None] + side - 1
        table = self.attn.w_msa.relative_position_bias_table
        return table[offset[..., 0] * (2 * side - 1) + offset[..., 1]].permute(2, 0, 1)


class Merging(nn.Module):
    """Merge 2x2 patches by unfolding, which keeps the four values of a channel together."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        x = functional.pad(x, (0, 0, 0, width % 2, 0, height % 2)).permute(0, 3, 1, 2)
        size = x.shape[2] // 2, x.shape[3] // 2
        merged = functional.unfold(x, 2, stride=2).transpose(1, 2)
        return self.reduction(self.norm(merged)).unflatten(1, size)


class Solider(Normalized):
    """A small Swin with SOLIDER's semantic control at 0.2, the mean of the last stage's normed map."""

    def __init__(self, width: int = 24, heads: tuple[int, ...] = (1, 2, 3, 6), side: int = 7) -> None:
        super().__init__(HALF)
        self.base = nn.Module()
        self.base.patch_embed = nn.Module()
        self.base.patch_embed.projection = nn.Conv2d(3, width, 4, 4)
        self.base.patch_embed.norm = nn.LayerNorm(width)
        self.base.stages, self.base.norms = nn.ModuleList(), []
        self.base.semantic_embed_w, self.base.semantic_embed_b = nn.ModuleList(), nn.ModuleList()
        for stage in range(4):
            wide = width * 2**stage
            part = nn.Module()
            part.blocks = nn.Sequential(
                WindowBlock(wide, heads[stage], side, 0), WindowBlock(wide, heads[stage], side, side // 2)
            )
            if stage < 3:
                part.downsample = Merging(wide)
            self.base.stages.append(part)
            self.base.add_module(f"norm{stage}", nn.LayerNorm(wide))
            self.base.semantic_embed_w.append(nn.Linear(2, width * 2 ** min(stage + 1, 3)))
            self.base.semantic_embed_b.append(nn.Linear(2, width * 2 ** min(stage + 1, 3)))
        self.classifier, self.bottleneck = nn.Linear(wide, 5, bias=False), nn.BatchNorm1d(wide)

    def features(self, images: Tensor) -> Tensor:
        base, control = self.base, torch.tensor([0.2, 0.8])
        x = base.patch_embed.norm(base.patch_embed.projection(images).permute(0, 2, 3, 1))
        for stage in range(3):
            x = base.stages[stage].downsample(base.stages[stage].blocks(x))
            x = x * functional.softplus(base.semantic_embed_w[stage](control)) + base.semantic_embed_b[stage](control)
        return base.norm3(base.stages[3].blocks(x)).mean((1, 2))
