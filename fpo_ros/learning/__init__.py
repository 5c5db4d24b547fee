"""Learning: supervised flow matching, Flow Policy Optimization, evaluation."""
