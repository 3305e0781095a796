"""Recurrent layers: gates instead of a plain RNN, the bias of the forget gate, orthogonal recurrent weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gradguard.fixes.change import Change, Changes, recorded
from lightning_gradguard.fixes.initialization import fixed_seed
from lightning_gradguard.modules.surgery import match_model, replace_module

#: Layers with a gate that keeps the state, the second one in torch's weights: an LSTM's forget gate, a GRU's z.
_GATED = (nn.LSTM, nn.LSTMCell, nn.GRU, nn.GRUCell)


class DropInLSTM(nn.LSTM):
    """An LSTM with the interface of `nn.RNN`: it takes h_0 or nothing, and returns `(output, h_n)`.

    Example:
        >>> output, h_n = DropInLSTM(2, 3, batch_first=True)(torch.zeros(1, 5, 2))
        >>> output.shape, h_n.shape
        (torch.Size([1, 5, 3]), torch.Size([1, 1, 3]))
    """

    def forward(self, input: Any, hx: Tensor | None = None) -> Any:  # type: ignore[override]
        """As `nn.RNN.forward`; the initial cell state is zero."""
        output, (h_n, _) = super().forward(input, None if hx is None else (hx, torch.zeros_like(hx)))
        return output, h_n


def replace_rnn(
    model: nn.Module, cell: type[nn.LSTM] | type[nn.GRU] = nn.LSTM, *, forget_bias: float | None = 1.0
) -> Changes:
    """Replaces every plain `nn.RNN` by an LSTM or GRU of the same sizes and interface, in place.

    The new layers have new parameters, so replace them before you create the optimizer.

    Args:
        model: A module that contains `nn.RNN`.
        cell: `nn.LSTM` or `nn.GRU`.
        forget_bias: Argument of `set_forget_bias`. Default as in Jozefowicz et al. 2015; None keeps torch's biases.

    Returns:
        One change for each layer.

    Raises:
        ValueError: If `cell` is another class.
        NothingToChange: If the model contains no `nn.RNN`.

    Example:
        >>> net = nn.ModuleDict({"rnn": nn.RNN(2, 16), "head": nn.Linear(16, 1)})
        >>> print(*replace_rnn(net, nn.GRU))
        rnn: RNN(2, 16, tanh) -> GRU(2, 16), forget bias 1

    References:
        Hochreiter and Schmidhuber 1997 (LSTM); Cho et al. 2014, arXiv 1406.1078 (GRU).
    """
    if cell not in (nn.LSTM, nn.GRU):
        raise ValueError(f"`replace_rnn(cell=...)` must be nn.LSTM or nn.GRU, got {cell!r}.")
    changes = []
    for name, old in [(n, m) for n, m in model.named_modules() if isinstance(m, nn.RNN)]:
        settings: dict[str, Any] = {"num_layers": old.num_layers, "bias": old.bias, "batch_first": old.batch_first}
        settings |= {"dropout": old.dropout, "bidirectional": old.bidirectional}
        made: Any = DropInLSTM if cell is nn.LSTM else nn.GRU
        new = match_model(made(old.input_size, old.hidden_size, **settings), model)
        replace_module(model, name, new)
        after = f"{cell.__name__}({old.input_size}, {old.hidden_size})"
        if forget_bias is not None and old.bias:
            set_forget_bias(new, forget_bias)
            after += f", forget bias {forget_bias:g}"
        changes.append(Change(name, f"RNN({old.input_size}, {old.hidden_size}, {old.nonlinearity})", after))
    return recorded(changes, "replace_rnn(model)", "nn.RNN layers")


def set_forget_bias(model: nn.Module, value: float = 1.0) -> Changes:
    """Sets the bias of the gate that keeps the state, so that the state is kept from the first step on.

    For an LSTM this is the forget gate, for a GRU the update gate z (in torch `h' = (1 - z)·n + z·h`). torch adds two
    biases; their sum becomes `value`. The state then decays as `sigmoid(value)**t`: by a factor of 0.73 a step for 1,
    0.95 for 3.

    Args:
        model: A module that contains LSTM or GRU layers or cells.
        value: The bias. Default as in Jozefowicz et al. 2015; larger values keep the state for longer.

    Returns:
        One change for each layer, with the mean bias before and after.

    Raises:
        NothingToChange: If there is no gated layer with a bias.

    Example:
        >>> lstm = nn.LSTM(2, 3)
        >>> _ = set_forget_bias(lstm, 2.0)
        >>> (lstm.bias_ih_l0 + lstm.bias_hh_l0)[3:6].tolist()
        [2.0, 2.0, 2.0]

    References:
        Gers, Schmidhuber and Cummins 2000; Jozefowicz, Zaremba and Sutskever 2015.
    """
    changes = []
    for name, module in model.named_modules():
        if not isinstance(module, _GATED):
            continue
        biases = dict(_parameters(module, "bias"))
        if not biases:
            continue
        size = module.hidden_size
        gate = slice(size, 2 * size)
        count = len(biases) // 2
        before = sum(float(b[gate].detach().mean()) for b in biases.values()) / count
        with torch.no_grad():
            for key, bias in biases.items():
                bias[gate].fill_(value if key.startswith("bias_ih") else 0.0)
        changes.append(Change(name or type(module).__name__, f"forget bias {before:.3g}", f"forget bias {value:g}"))
    return recorded(changes, "set_forget_bias(model)", "LSTM or GRU layers with a bias")


def orthogonal_recurrent(model: nn.Module, *, gain: float = 1.0, seed: int | None = None) -> Changes:
    """Draws the recurrent weights of every RNN, LSTM and GRU as gain times an orthogonal matrix, gate by gate.

    With gain 1 a linear recurrence keeps the norm of a gradient over any number of steps. The input weights become
    Glorot-uniform and the biases of a plain RNN zero; the biases of gated layers are not changed.

    Args:
        model: A module that contains recurrent layers or cells.
        gain: Singular values of each recurrent matrix.
        seed: For reproducible weights. None, the default, uses torch's global generator.

    Returns:
        One change for each layer, with the largest singular value before and after.

    Raises:
        NothingToChange: If there is no recurrent layer.

    Example:
        >>> rnn = nn.RNN(2, 8)
        >>> _ = orthogonal_recurrent(rnn, seed=0)
        >>> round(float(torch.linalg.matrix_norm(rnn.weight_hh_l0, 2).detach()), 4)
        1.0

    References:
        Saxe, McClelland and Ganguli 2014, arXiv 1312.6120; Pascanu, Mikolov and Bengio 2013, arXiv 1211.5063.
    """
    changes = []
    with fixed_seed(seed), torch.no_grad():
        for name, module in model.named_modules():
            if not isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
                continue
            before = _largest(module)
            for _, weight in _parameters(module, "weight_hh"):
                for gate in weight.chunk(weight.shape[0] // weight.shape[1]):
                    gate.copy_(nn.init.orthogonal_(torch.empty(gate.shape), gain=gain))
            for _, weight in _parameters(module, "weight_ih"):
                for gate in weight.chunk(weight.shape[0] // int(module.hidden_size)):
                    gate.copy_(nn.init.xavier_uniform_(torch.empty(gate.shape)))
            for _, bias in _parameters(module, "bias") if isinstance(module, (nn.RNN, nn.RNNCell)) else ():
                bias.zero_()
            after = f"largest singular value {_largest(module):.3g} (orthogonal)"
            changes.append(Change(name or type(module).__name__, f"largest singular value {before:.3g}", after))
    return recorded(changes, "orthogonal_recurrent(model)", "recurrent layers")


def _largest(module: nn.Module) -> float:
    gates = [g for _, w in _parameters(module, "weight_hh") for g in w.chunk(w.shape[0] // w.shape[1])]
    return max(float(torch.linalg.matrix_norm(gate.detach().float(), 2)) for gate in gates)


def _parameters(module: nn.Module, start: str) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, p) for name, p in module.named_parameters(recurse=False) if name.startswith(start))
