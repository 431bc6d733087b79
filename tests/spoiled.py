"""What a test does to adapters inside vLLM's own processes, behind the back of everybody."""

from __future__ import annotations

import torch
from vllm.lora.request import LoRARequest

from rlvr.weights.transport import ProofExtension


class Spoiled(ProofExtension):
    """The extension of the product, with ways to spoil what it proves."""

    def spoil(self, name: str, half: str) -> bool:
        """Change one number of a live matrix A or B."""
        manager = self._rlvr_slots()
        for module, found in manager.modules.items():
            parts = manager.packed_modules.get(module, [module])
            if name in parts:
                stacked = found.lora_a_stacked if half == "A" else found.lora_b_stacked
                with torch.no_grad():
                    stacked[parts.index(name)][0, 0, 0, 0] += 1.0
                return True
        return False

    def second(self) -> bool:
        """Add another adapter, as a request that names one would."""
        return bool(self.model_runner.lora_manager.add_dummy_lora(LoRARequest("second", 2, "nowhere"), rank=4))

    def forget(self) -> bool:
        """Lose the adapter."""
        self.model_runner.lora_manager.remove_all_adapters()
        return True
