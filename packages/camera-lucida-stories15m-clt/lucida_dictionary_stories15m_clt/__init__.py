"""Camera Lucida's 12,288 cross-layer features of stories15m"""
