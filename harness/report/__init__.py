"""Figures, pages and findings made of what tables and runs hold."""
