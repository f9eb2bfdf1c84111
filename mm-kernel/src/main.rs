//! M1's image.
#![no_std]
#![no_main]

xen_rt::entry!(main);

fn main(boot: xen_rt::Boot) -> ! {
    mm_kernel::boot::build(boot).run()
}
