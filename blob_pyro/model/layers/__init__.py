"""Everything that touches the network: held draws, injection, the answer-token head."""
