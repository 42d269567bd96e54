"""The default reducer of the label-distance loss: the mean over the anchors that have a positive."""

from pytorch_metric_learning.reducers import BaseReducer

__all__ = ["ValidAnchorMeanReducer"]


class ValidAnchorMeanReducer(BaseReducer):
    """Mean over the anchors that have a positive.

    Divides the sum of the losses by the number of valid anchors, which the loss reports as `divisor`. Unlike PML's
    `AvgNonZeroReducer`, it has no data-dependent branch, so it compiles without a graph break. It also counts valid
    anchors whose loss is 0.

    Examples:
        >>> from labeldist import LabelDistanceContrastiveLoss, StaticLDM
        >>> LabelDistanceContrastiveLoss(StaticLDM.uniform(1.0, num_classes=2)).reducer
        ValidAnchorMeanReducer()
    """

    def unpack_loss_info(self, loss_info):
        """Pass the divisor to the reduction, if the loss reports one."""
        losses, indices, reduction_type, kwargs = super().unpack_loss_info(loss_info)
        if reduction_type != "already_reduced" and "divisor" in loss_info:
            kwargs = {"divisor": loss_info["divisor"]}
        return losses, indices, reduction_type, kwargs

    def element_reduction(self, losses, loss_indices, embeddings, labels, divisor=None):
        """Divide the sum by `divisor`, or by the number of losses if `divisor` is `None`."""
        if divisor is None:
            return losses.sum() / max(len(losses), 1)
        return losses.sum() / divisor

    pos_pair_reduction = neg_pair_reduction = triplet_reduction = element_reduction
