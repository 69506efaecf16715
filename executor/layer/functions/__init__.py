"""Pure functions on tensors behind the bindings, forward and backward apart; none of them uses autograd."""
