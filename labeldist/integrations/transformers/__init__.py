"""Label-distance contrastive learning inside the Hugging Face Trainer, without a change to the model.

```python
objective = TrainerObjective(LabelDistanceContrastiveLoss(ldm), model)
trainer = Trainer(
    model,
    args,
    train_dataset=rows,
    compute_loss_func=objective,
    callbacks=[objective.callback],
)
trainer.train()
```
"""

from labeldist.integrations._shared.versions import imports_of

# The oldest version that the tests have run with.
with imports_of("transformers", minimum="5.17", module="labeldist.integrations.transformers", extra="train"):
    import accelerate  # noqa: F401  (the Trainer starts with it)
    import transformers  # noqa: F401

from labeldist.integrations.transformers.cached_trainer import CachedTrainer
from labeldist.integrations.transformers.callback import LabelDistanceCallback
from labeldist.integrations.transformers.objective import TrainerObjective

__all__ = ["CachedTrainer", "LabelDistanceCallback", "TrainerObjective"]
