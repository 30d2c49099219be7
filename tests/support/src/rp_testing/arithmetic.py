"""Counts the floating-point operations of what runs, eager or compiled; two for each multiplication with addition."""

import collections
from collections.abc import Callable
from typing import Any

import torch
from rp_models.arithmetic import Flops as Flops
from rp_models.arithmetic import operations


class CompiledFlops:
    """A backend of `torch.compile` that runs graphs as they are and counts what they execute, forward and backward.

    A dispatch mode cannot: dynamo compiles nothing while one is active.
    """

    def __init__(self) -> None:
        self.by_graph: collections.Counter[int] = collections.Counter()
        self.graphs = 0

    @property
    def total(self) -> int:
        """What was executed since `by_graph` was cleared."""
        return sum(self.by_graph.values())

    @property
    def backend(self) -> Callable[..., Any]:
        """To be given to `torch.compile`."""
        from torch._dynamo.backends.common import aot_autograd

        return aot_autograd(
            fw_compiler=self._compiled, bw_compiler=self._compiled, inference_compiler=self._compiled
        )  # fmt: skip

    def _compiled(self, graph: torch.fx.GraphModule, inputs: Any) -> Any:
        from functorch.compile import make_boxed_func

        number, work = self.graphs, sum(map(_work, graph.graph.nodes))
        self.graphs += 1

        def run(*args: Any) -> Any:
            self.by_graph[number] += work
            return graph(*args)

        return make_boxed_func(run)


def _work(node: torch.fx.Node) -> int:
    """The operations of one node of a graph."""
    packet = getattr(node.target, "_overloadpacket", None)
    if node.op != "call_function" or packet is None:
        return 0
    args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), lambda n: n.meta["val"])
    return operations(packet, args, kwargs, node.meta.get("val"))
