"""vLLM's NCCL transfer with gloo in NCCL's place, as a user would add a backend: what CPUs can run of it.

All but the process group and the broadcast is vLLM's: the handshake, the order of the calls, the reload by layers.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import ClassVar

import torch
import torch.distributed as dist
from vllm.distributed.weight_transfer import WeightTransferEngineFactory, WeightTransferTrainerFactory
from vllm.distributed.weight_transfer.base import TrainerInitInfo, WeightTransferInitInfo
from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerWeightTransferEngine, NCCLWeightTransferEngine

TIMEOUT = timedelta(seconds=60)


@dataclass
class GlooTrainerInitInfo(TrainerInitInfo):
    backend: ClassVar[str] = "gloo"
    master_address: str
    master_port: int
    world_size: int


@dataclass
class GlooInitInfo(WeightTransferInitInfo):
    master_address: str
    master_port: int
    world_size: int
    rank_offset: int


class Group:
    """Rank 0 sends."""

    def __init__(self, info, rank):
        store = dist.TCPStore(info.master_address, info.master_port, info.world_size, rank == 0, TIMEOUT)
        self._group = dist.ProcessGroupGloo(store, rank, info.world_size, TIMEOUT)

    def broadcast(self, tensor):
        options = dist.BroadcastOptions()
        options.rootRank = 0
        self._group.broadcast([tensor], options).wait()

    def destroy(self):
        del self._group


class GlooEngine(NCCLWeightTransferEngine):
    init_info_cls = GlooInitInfo

    def init_transfer_engine(self, init_info):
        self.model_update_group = Group(init_info, init_info.rank_offset + self.parallel_config.rank)

    def update_weights(self, update_info):  # vLLM's own waits for an accelerator
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info):
        for name, dtype, shape in zip(update_info.names, update_info.dtype_names, update_info.shapes, strict=True):
            tensor = torch.empty(shape, dtype=getattr(torch, dtype))
            self.model_update_group.broadcast(tensor)
            self.model.load_weights([(name, tensor)])


class GlooTrainerEngine(NCCLTrainerWeightTransferEngine):
    init_info_cls = GlooTrainerInitInfo

    @classmethod
    def trainer_init(cls, init_info, *, client, source=None):
        engine = cls(client=client, source=source, is_sender=init_info.is_sender)
        if engine.is_sender:
            place = {name: value for name, value in asdict(init_info).items() if name != "rank"}
            with ThreadPoolExecutor(max_workers=1) as executor:
                joined = executor.submit(client.init_weight_transfer_engine, place | {"rank_offset": 1})
                engine.model_update_group = Group(init_info, 0)
                joined.result()
        return engine

    def _broadcast(self, source, meta):
        for _, tensor in self._checked_iter(source, meta):
            if self.is_sender:
                self.model_update_group.broadcast(tensor.contiguous())


WeightTransferEngineFactory.register_engine("gloo", GlooEngine)
WeightTransferTrainerFactory.register_engine("gloo", GlooTrainerEngine)
