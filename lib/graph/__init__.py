"""The one reader of networks: a torch.fx graph that computes what the network computes, and knows that it does.

`Network` lists the calls of a network in evaluation mode. Steps that change a tensor in place become plain steps,
parametrisations become plain weights, and `verify` compares the calls with the network itself on a few images.
"""

from lib.graph.copies import GraphError, copied, logits_in, parametrised, structure, unwrapped
from lib.graph.layout import Layout
from lib.graph.network import Network, behind_output, read
