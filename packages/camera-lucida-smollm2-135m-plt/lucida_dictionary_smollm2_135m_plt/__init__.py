"""Camera Lucida's 61,440 per-layer features of smollm2-135m"""
