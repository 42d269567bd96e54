"""Label-distance contrastive learning inside the Hugging Face Trainer, without a change to the model.

objective = TrainerObjective(LabelDistanceContrastiveLoss(ldm), model)
trainer = Trainer(model, args, train_dataset=rows, compute_loss_func=objective, callbacks=[objective.callback])
trainer.train()
"""

try:
    import accelerate  # noqa: F401  (the Trainer starts with it)
    import transformers
    from packaging.version import Version
except ImportError as error:
    raise ImportError(
        "labeldist.integrations.transformers needs transformers. Install it with: pip install 'labeldist[train]'"
    ) from error
# The oldest that the tests have run with.
if Version(transformers.__version__) < Version("5.17"):
    raise ImportError(
        f"labeldist.integrations.transformers needs transformers >= 5.17, got {transformers.__version__}. Upgrade it "
        "with: pip install -U 'labeldist[train]'"
    )

from labeldist.integrations.transformers.cached_trainer import CachedTrainer
from labeldist.integrations.transformers.callback import LabelDistanceCallback
from labeldist.integrations.transformers.objective import TrainerObjective

__all__ = ["CachedTrainer", "LabelDistanceCallback", "TrainerObjective"]
