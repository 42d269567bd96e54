"""What a person sees of a run or a comparison: pictures and terminal text."""
