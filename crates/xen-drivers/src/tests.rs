mod vbd;
mod vbd_random;
mod world;
