"""One process of a launch: tells the story under each strategy named on the command line, and writes what happened."""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy
from story import Story, tell
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

WORLD = int(os.environ["WORLD_SIZE"])


class CPUFSDP(FSDPStrategy):
    """FSDP1 on a CPU, which Lightning does not offer: torch only wants to be told the device."""

    def _setup_model(self, model: nn.Module) -> nn.Module:
        return FullyShardedDataParallel(model, device_id=torch.device("cpu"), **self.kwargs)


class Sharded(Story):
    """FSDP2, on a mesh of its own when that is given."""

    def __init__(self, shape: tuple[int, ...] = (), **options: Any) -> None:
        super().__init__(**options)
        self.shape = shape

    def configure_model(self) -> None:
        if getattr(self, "done", False):
            return
        self.done = True
        mesh = (
            init_device_mesh("cpu", self.shape, mesh_dim_names=("replicate", "shard"))
            if self.shape
            else self.device_mesh["data_parallel"]
        )
        for part in (self.net.first, self.net.middle, self.net):
            fully_shard(part, mesh=mesh)


class Parallel(Story):
    """Tensor parallelism, with FSDP2 on top when the mesh has both."""

    def configure_model(self) -> None:
        if getattr(self, "done", False):
            return
        self.done = True
        plan = {"first": ColwiseParallel(), "middle": RowwiseParallel()}
        parallelize_module(self.net, self.device_mesh["tensor_parallel"], plan)
        if self.device_mesh["data_parallel"].size() > 1:
            fully_shard(self.net, mesh=self.device_mesh["data_parallel"])


def fsdp1(**options: Any) -> dict[str, Any]:
    return {
        "strategy": CPUFSDP(
            auto_wrap_policy=ModuleWrapPolicy({nn.Linear}),
            process_group_backend="gloo",
            state_dict_type="sharded",
            **options,
        )
    }


def parallel(data: int, tensor: int) -> dict[str, Any]:
    return {"strategy": ModelParallelStrategy(data, tensor, save_distributed_checkpoint=False)}


#: Cell of the matrix -> module and Trainer arguments.
CELLS = {
    "ddp": lambda: (Story(parts=2), {"strategy": DDPStrategy(process_group_backend="gloo")}),
    "ddp_static": lambda: (
        Story(parts=2),
        {"strategy": DDPStrategy(process_group_backend="gloo", static_graph=True, gradient_as_bucket_view=True)},
    ),
    "ddp_accumulate": lambda: (
        Story(parts=2, micro=2),
        {"strategy": DDPStrategy(process_group_backend="gloo"), "accumulate_grad_batches": 2},
    ),
    "ddp_batchnorm": lambda: (Story(parts=2, norm=True), {"strategy": DDPStrategy(process_group_backend="gloo")}),
    "fsdp1": lambda: (Story(parts=2, width=15), fsdp1()),
    "fsdp1_flat": lambda: (Story(parts=2, width=15), fsdp1(use_orig_params=False)),
    "fsdp2": lambda: (Sharded(parts=2, width=15), parallel(2, 1)),
    "tp": lambda: (Parallel(parts=1), parallel(1, 2)),
    "hsdp": lambda: (Sharded(shape=(2, 2), parts=4, width=15), parallel(4, 1)),
    "fsdp_tp": lambda: (Parallel(parts=1), parallel(2, 2)),
}


def main(folder: Path, cells: list[str]) -> None:
    rank = int(os.environ["RANK"])
    for cell in cells:
        try:
            home = folder / cell
            home.mkdir(exist_ok=True)
            module, trainer = CELLS[cell]()
            whole = tell(module, {**trainer, "devices": WORLD}, folder=home)
            module, trainer = CELLS[cell]()
            resumed = tell(module, {**trainer, "devices": WORLD}, ckpt=home / "saved.ckpt")
            told = {"whole": whole, "resumed": resumed}
        except Exception:
            told = {"error": traceback.format_exc()}
        (folder / f"{cell}.{rank}.json").write_text(json.dumps(told))
        print(cell, "error" in told, told.get("error", ""), flush=True)


if __name__ == "__main__":
    faulthandler.enable()
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), sys.argv[2:])
    sys.stdout.flush()
    os._exit(0)  # FSDP1's threads may abort an orderly exit
