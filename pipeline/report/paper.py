"""What Touvron et al. 2021 report of ImageNet-1k, beside which a report shows its own figures.

The top-1 that a student is compared with stands in its entry of params.yaml (``reference``).
"""

TOKENS = {"input": 0.06, "last": 0.93, "two_class_tokens": 0.999}  # section 4: mean cosine of the two tokens
# Table 4: shares of ImageNet's validation samples on which the student and its convnet teacher differ.
DISAGREEMENT = {"undistilled": 0.133, "class": 0.112, "distillation": 0.100}
