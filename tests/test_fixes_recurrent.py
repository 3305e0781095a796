import pytest
import torch
from torch import nn

from lightning_gradguard import fixes


class Recall(nn.Module):
    """Uses both outputs of its RNN, as plain-RNN code does."""

    def __init__(self, **settings):
        super().__init__()
        self.rnn = nn.RNN(3, 8, batch_first=True, **settings)
        self.head = nn.Linear(8, 2)

    def forward(self, x, h0=None):
        output, h_n = self.rnn(x, h0)
        return self.head(output[:, -1] + h_n[-1])


@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU])
def test_the_new_layer_is_called_like_the_old(cell):
    net = Recall(num_layers=2, dropout=0.1)
    (change,) = fixes.replace_rnn(net, cell)
    assert change.layer == "rnn"
    assert isinstance(net.rnn, cell)
    assert (net.rnn.num_layers, net.rnn.dropout, net.rnn.batch_first) == (2, 0.1, True)
    net(torch.randn(4, 7, 3)).sum().backward()
    net(torch.randn(4, 7, 3), torch.zeros(2, 4, 8))
    packed = nn.utils.rnn.pack_padded_sequence(torch.randn(2, 5, 3), [5, 3], batch_first=True)
    assert net.rnn(packed)[1].shape == (2, 2, 8)


def test_drop_in_lstm_equals_torchs_lstm():
    net = Recall()
    fixes.replace_rnn(net, nn.LSTM, forget_bias=None)
    plain = nn.LSTM(3, 8, batch_first=True)
    plain.load_state_dict(net.rnn.state_dict())
    x = torch.randn(4, 7, 3)
    assert torch.equal(net.rnn(x)[0], plain(x)[0])


@pytest.mark.parametrize("value", [-2.0, 1.0, 3.0])
def test_forget_bias_sets_how_much_of_the_cell_survives_a_step(value):
    lstm = nn.LSTM(2, 5)
    with torch.no_grad():
        for p in lstm.parameters():
            p.zero_()
    fixes.set_forget_bias(lstm, value)
    _, (_, cell) = lstm(torch.zeros(3, 1, 2), (torch.zeros(1, 1, 5), torch.ones(1, 1, 5)))
    expected = torch.sigmoid(torch.tensor(value)) ** 3
    assert torch.allclose(cell, expected.expand(1, 1, 5))


def test_gru_keeps_its_state_with_a_large_bias():
    gru = nn.GRUCell(2, 5)
    fixes.set_forget_bias(gru, 30.0)
    state = torch.randn(1, 5)
    assert torch.allclose(gru(torch.randn(1, 2), state), state, atol=1e-5)


def test_forget_bias_reports_what_it_was_and_needs_a_gate():
    lstm = nn.LSTM(2, 3, num_layers=2, bidirectional=True)
    (first,) = fixes.set_forget_bias(lstm, 1.5)
    (second,) = fixes.set_forget_bias(lstm, 0.5)
    assert (second.before, second.after) == ("forget bias 1.5", "forget bias 0.5")
    assert first.layer == "LSTM"
    for nothing in (nn.RNN(2, 3), nn.LSTM(2, 3, bias=False)):
        with pytest.raises(fixes.NothingToChange):
            fixes.set_forget_bias(nothing)


@pytest.mark.parametrize("make", [nn.RNN, nn.LSTM, nn.GRU, nn.RNNCell, nn.LSTMCell, nn.GRUCell])
def test_recurrent_weights_become_orthogonal_gate_by_gate(make):
    layer = make(3, 6)
    fixes.orthogonal_recurrent(layer, gain=1.1, seed=0)
    weight = next(p for name, p in layer.named_parameters() if name.startswith("weight_hh"))
    for gate in weight.detach().split(6):
        assert torch.allclose(gate @ gate.T, 1.21 * torch.eye(6), atol=1e-5)
    again = make(3, 6)
    fixes.orthogonal_recurrent(again, gain=1.1, seed=0)
    other = next(p for name, p in again.named_parameters() if name.startswith("weight_hh"))
    assert torch.equal(weight, other)


def test_errors():
    with pytest.raises(ValueError, match=r"must be nn\.LSTM or nn\.GRU"):
        fixes.replace_rnn(Recall(), nn.RNN)
    with pytest.raises(fixes.NothingToChange):
        fixes.replace_rnn(nn.Linear(2, 2))
    with pytest.raises(fixes.NothingToChange):
        fixes.orthogonal_recurrent(nn.Linear(2, 2))
