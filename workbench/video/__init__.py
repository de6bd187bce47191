"""Clips: frames and sound, optical flow, four ways to paint a film, and what tells them apart."""
