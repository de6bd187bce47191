"""Style models -> ONNX, which browsers, phones and other programs run."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import workbench
from workbench.errors import OutputError
from workbench.fast.models import StyleModel
from workbench.fast.network import (
    EPSILON,
    LAST_LAYER_SCALE,
    SHRINK,
    SMALLEST,
    Convolution,
    ExamplesNetwork,
    Layer,
    TransformationNetwork,
)
from workbench.files import write_bytes
from workbench.pages import plain
from workbench.samples import PREFIX

OPSET = 18  # from here on `Pad` takes its axes
_IR = 9  # version of the file's form; every runtime since 2023 reads it
_FAR = 1 / 255  # that a graph may paint from its model, at most
_CHECKED = 35, 46  # height and width of the picture that it is checked on


def export_onnx(
    model: StyleModel, path: str | os.PathLike[str], *, name: str = "", license: str = ""
) -> None:
    """Write a model as ONNX, once it is found to paint as the model does.

    The graph takes `picture` `(1, 3, H, W)`, float32, sRGB in [0, 1], of any size, and gives
    `painted`, of the same. If the network has several sets of scales and shifts, `mix` `(K,)` is a
    second input: their shares, as `TransformationNetwork.mix` gives them. The metadata says what
    the model's `name`, `program`, `license` and (as a JSON list) `sets` are.

    Raises
    ------
    OutputError
        If what the graph paints is further than 1/255 from what the model does, or it cannot be
        written.
    """
    network = model.network.cpu()
    graph = to_onnx(network, {"name": name, "license": license or "not stated"})
    evaluate = ReferenceEvaluator(graph).run
    picture = torch.rand(1, 3, *_CHECKED, generator=torch.Generator().manual_seed(0))
    for share in torch.eye(len(network.sets)):
        mix = {"mix": share.numpy()} if len(share) > 1 else {}
        (painted,) = evaluate(None, {"picture": picture.numpy(), **mix})
        exact = StyleModel(network, torch.device("cpu"), torch.float32, share)(picture)
        far = float(np.abs(painted - exact.numpy()).max())
        if not far <= _FAR:
            raise OutputError(
                f"{path} would paint otherwise than the model, by {255 * far:.3g}/255."
            )
    write_bytes(path, graph.SerializeToString())


def to_onnx(network: TransformationNetwork, about: Mapping[str, str]) -> onnx.ModelProto:
    """The graph of what `network` does with a picture, its parameters within; see `export_onnx`."""
    graph = _Graph(network)
    sides = graph("Shape", "picture", start=2)
    x = graph.prepare(sides)
    for layer in network.head:
        x = graph("Relu", graph.layer(layer, x))
    for first, second in zip(network.residual[::2], network.residual[1::2], strict=True):
        x = graph("Add", x, graph.layer(second, graph("Relu", graph.layer(first, x))))
    for layer in network.tail:
        x = graph("Relu", graph.layer(layer, x))
    x = graph.colours(graph.convolution(network.paint, x))
    x = graph("Slice", x, np.array([0, 0]), sides, np.array([2, 3]))
    graph("Clip", graph.keep(x), np.float32(0), np.float32(1), outputs=["painted"])
    described = helper.make_tensor_value_info
    picture, painted = (
        described(name, TensorProto.FLOAT, [1, 3, "height", "width"])
        for name in ("picture", "painted")
    )
    mix = [described("mix", TensorProto.FLOAT, [len(network.sets)])] if graph.is_mixed else []
    made = helper.make_model(
        helper.make_graph(graph.nodes, "style", [picture, *mix], [painted], graph.constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=_IR,
        producer_name="workbench",
        producer_version=workbench.__version__,
    )
    sets = json.dumps([short_name(each) for each in network.sets])
    helper.set_model_props(made, {**about, "program": network.program, "sets": sets})
    onnx.checker.check_model(made)
    return made


def short_name(name: str) -> str:
    """What a model or style is called, without where it lies: that is nobody's business."""
    last = PurePath(name.removeprefix(PREFIX)).name
    return plain(re.sub(r"\.[a-z]+$", "", last).translate({ord("@"): " ", ord("_"): " "}))


class _Graph:
    """Nodes and constants, added as they are called for."""

    def __init__(self, network: TransformationNetwork) -> None:
        self.network, self.is_mixed = network, len(network.sets) > 1
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def __call__(self, operator: str, *inputs: Any, **attributes: Any) -> str:
        """Add a node; inputs are names, numbers, arrays. Returns the name of what it gives."""
        outputs = attributes.pop("outputs", [f"x{len(self.nodes)}"])
        names = [each if isinstance(each, str) else self._constant(each) for each in inputs]
        self.nodes.append(helper.make_node(operator, names, outputs, **attributes))
        return str(outputs[0])

    def _constant(self, value: Any) -> str:
        if isinstance(value, torch.Tensor):
            value = value.detach().numpy()
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def prepare(self, sides: str) -> str:
        """In [-1, 1], with sides that the network can halve twice."""
        least = self("Max", sides, np.array(SMALLEST))
        steps = self("Div", self("Add", least, np.array(SHRINK - 1)), np.array(SHRINK))
        more = self("Sub", self("Mul", steps, np.array(SHRINK)), sides)
        pads = self("Concat", np.array([0, 0]), more, axis=0)
        x = self("Pad", "picture", pads, "", np.array([2, 3]), mode="edge")
        x = self("Sub", self("Mul", x, np.float32(2)), np.float32(1))
        side = self.network.folded
        return self("SpaceToDepth", x, blocksize=side) if side > 1 else x

    def layer(self, layer: Layer, x: str) -> str:
        """A convolution and its normalisation."""
        x = self.convolution(layer.convolve, x)
        if self.is_mixed:
            scale, shift = (self("MatMul", "mix", each) for each in (layer.scale, layer.shift))
            return self("InstanceNormalization", x, scale, shift, epsilon=EPSILON)
        return self("InstanceNormalization", x, layer.scale[0], layer.shift[0], epsilon=EPSILON)

    def convolution(self, convolution: Convolution, x: str) -> str:
        """A convolution that pads by reflection."""
        if convolution.grow > convolution.spread:
            scales = np.array([1, 1, convolution.grow, convolution.grow], np.float32)
            how = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
            x = self("Resize", x, "", scales, mode="nearest", **how)
        weight = convolution.filters()
        pads = np.array([weight.shape[-1] // 2] * 4)
        x = self("Pad", x, pads, "", np.array([2, 3]), mode="reflect")
        if convolution is self.network.head[0].convolve:  # there, colours of a place come first
            weight = weight.unflatten(1, (3, -1)).transpose(1, 2).flatten(1, 2)
        x = self("Conv", x, weight, strides=[convolution.stride] * 2)
        side = convolution.spread
        return self("DepthToSpace", x, blocksize=side, mode="CRD") if side > 1 else x

    def colours(self, x: str) -> str:
        """Colours of what the last convolution gives."""
        bias = self.network.bias.view(3, 1, 1)
        if isinstance(self.network, ExamplesNetwork):
            return self("Div", self("Add", x, bias), np.float32(255))
        x = self("Mul", x, np.float32(LAST_LAYER_SCALE[self.network.kind]))
        x = self("Tanh", self("Add", x, bias))
        return self("Add", self("Mul", x, np.float32(150 / 255)), np.float32(0.5))

    def keep(self, x: str) -> str:
        """What the strength leaves of the picture itself, if the network knows strengths."""
        if self.network.styles == self.network.sets:
            return x
        share = self("Slice", "mix", np.array([0]), np.array([1]))
        kept = self("Mul", share, share)
        return self("Add", x, self("Mul", kept, self("Sub", "picture", x)))
