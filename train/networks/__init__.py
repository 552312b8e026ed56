"""Networks to be judged, wherever they come from: trained here, or somebody else's."""
