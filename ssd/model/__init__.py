"""The detector: backbones, priors, matching, loss, post-processing."""
