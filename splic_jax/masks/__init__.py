"""Which pixels are anchors: drawn by `sampling`, by a design of `designs`."""
