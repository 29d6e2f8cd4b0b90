"""What a grid will cost before anything is downloaded: `vtpbench plan`."""
