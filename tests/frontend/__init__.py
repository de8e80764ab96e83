"""The project's own vhost-user front-end: guest memory, rings and FUSE requests without a virtual machine.

messages  the vhost-user socket        memory    the guest's memory
rings     split and packed virtqueues  queue     a ring with its event descriptors
frontend  what stands in for QEMU      client    what stands in for the guest's kernel
"""
