mod calls;
mod crashes;
mod driver;
mod joins;
mod properties;
mod runs;
