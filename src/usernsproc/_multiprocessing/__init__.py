"""The processes of `usernsproc.multiprocessing`, for each start method."""
