mod blk;
mod blk_hostile;
mod dom0;
mod net;
mod vbd;
mod vbd_random;
mod world;
