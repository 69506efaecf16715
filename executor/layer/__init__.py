"""One layer, run operator by operator: every operator of a layer program bound to plain PyTorch.

Tensors go by the names of the program. Suffixes of shapes, wherever variables carry them:

    T tokens of a rank, sequence-major (a sequence position's micro-batch members stand side by side)
    S sequence positions, B members of the micro-batch
    H hidden, N heads, D elements of a head, W any width
    E experts of a rank, K experts of a token, R rows sent to experts, F inner width of an expert
"""
