"""What a picture says of its own making: AUTOMATIC1111's text, ComfyUI's graph."""
