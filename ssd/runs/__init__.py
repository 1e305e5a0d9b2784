"""The folder of a run: who may write there, what is saved in it, how a stopped run goes on."""
