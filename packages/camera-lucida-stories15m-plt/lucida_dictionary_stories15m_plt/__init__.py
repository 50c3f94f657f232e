"""Camera Lucida's 12,288 per-layer features of stories15m"""
