// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * A parallel port without hardware, for the SVM lane: the kernel's parport core and ppdev drive it as any other port, and
 * it records what arrives.
 *
 * /dev/epp_recorder, read: the port's name on a line, then a line for each access to the port, in order:
 *
 *     data 5a             the data register was written
 *     control 0c          the control register was written (its four lines, as the register has them)
 *     forward, reverse    the data lines were turned
 *     epp 40 address w 55 an EPP address cycle that writes, in this IEEE 1284 mode of the core (hexadecimal)
 *     epp 40 data r 80    an EPP data cycle that reads, and what it read
 *     timeout             an EPP cycle that nobody answered
 *
 * Reads of registers and the saving and restoring of the port's state are not recorded. Address cycles read back the last
 * address that was written, inverted; data cycles read 80, 81, 82 and so on.
 *
 * Written: a line that begins with `a` empties the record and has somebody answer EPP cycles; `n` empties it and has
 * nobody.
 */
#include <linux/fs.h>
#include <linux/kernel.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/parport.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/uaccess.h>

#define RECORD_BYTES 16384

/* Status: not busy, ACK and selected high, no error. */
#define IDLE_STATUS (PARPORT_STATUS_BUSY | PARPORT_STATUS_ACK | PARPORT_STATUS_SELECT | PARPORT_STATUS_ERROR)
#define CONTROL_LINES (PARPORT_CONTROL_STROBE | PARPORT_CONTROL_AUTOFD | PARPORT_CONTROL_INIT | PARPORT_CONTROL_SELECT)

static struct parport *port;
static DEFINE_SPINLOCK(lock);
static char record[RECORD_BYTES];
static size_t recorded;
static bool is_nobody_there;
static unsigned char data_register, control_register, epp_address, next_data;

/* With the lock held; what does not fit any more is left out. */
static __printf(1, 2) void note(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	recorded += vscnprintf(record + recorded, sizeof(record) - recorded, format, arguments);
	va_end(arguments);
}

static void empty(bool nobody)
{
	unsigned long flags;

	spin_lock_irqsave(&lock, flags);
	recorded = 0;
	is_nobody_there = nobody;
	epp_address = 0;
	next_data = 0x80;
	spin_unlock_irqrestore(&lock, flags);
}

static void write_data(struct parport *p, unsigned char value)
{
	unsigned long flags;

	spin_lock_irqsave(&lock, flags);
	data_register = value;
	note("data %02x\n", value);
	spin_unlock_irqrestore(&lock, flags);
}

static unsigned char read_data(struct parport *p)
{
	return data_register;
}

static void write_control(struct parport *p, unsigned char value)
{
	unsigned long flags;

	spin_lock_irqsave(&lock, flags);
	control_register = value & CONTROL_LINES;
	note("control %02x\n", control_register);
	spin_unlock_irqrestore(&lock, flags);
}

static unsigned char read_control(struct parport *p)
{
	return control_register;
}

static unsigned char frob_control(struct parport *p, unsigned char mask, unsigned char value)
{
	write_control(p, (control_register & ~mask) ^ value);
	return control_register;
}

static unsigned char read_status(struct parport *p)
{
	return IDLE_STATUS;
}

static void turn(const char *way)
{
	unsigned long flags;

	spin_lock_irqsave(&lock, flags);
	note("%s\n", way);
	spin_unlock_irqrestore(&lock, flags);
}

static void data_forward(struct parport *p)
{
	turn("forward");
}

static void data_reverse(struct parport *p)
{
	turn("reverse");
}

static void no_interrupt(struct parport *p)
{
}

static void init_state(struct pardevice *device, struct parport_state *state)
{
	state->u.pc.ctr = PARPORT_CONTROL_INIT | PARPORT_CONTROL_SELECT;
	state->u.pc.ecr = 0;
}

static void save_state(struct parport *p, struct parport_state *state)
{
	state->u.pc.ctr = control_register;
}

static void restore_state(struct parport *p, struct parport_state *state)
{
	control_register = state->u.pc.ctr;
}

/* One EPP block; how many cycles were answered. */
static size_t epp(struct parport *p, unsigned char *buffer, size_t count, bool is_address, bool is_write)
{
	unsigned long flags;
	size_t done;

	spin_lock_irqsave(&lock, flags);
	for (done = 0; done < count; done++) {
		if (is_nobody_there) {
			note("timeout\n");
			break;
		}
		if (is_write && is_address)
			epp_address = buffer[done];
		else if (!is_write)
			buffer[done] = is_address ? (unsigned char)~epp_address : next_data++;
		/* The bit that tells addresses from data is part of the mode. */
		note("epp %02x %s %c %02x\n", p->ieee1284.mode & ~IEEE1284_ADDR,
		     p->ieee1284.mode & IEEE1284_ADDR ? "address" : "data", is_write ? 'w' : 'r', buffer[done]);
		/* The core has asked for what the mode says. */
		if (!(p->ieee1284.mode & IEEE1284_ADDR) != !is_address)
			note("by the other routine\n");
	}
	spin_unlock_irqrestore(&lock, flags);
	return done;
}

static size_t epp_write_data(struct parport *p, const void *buffer, size_t count, int flags)
{
	return epp(p, (unsigned char *)buffer, count, false, true);
}

static size_t epp_read_data(struct parport *p, void *buffer, size_t count, int flags)
{
	return epp(p, buffer, count, false, false);
}

static size_t epp_write_address(struct parport *p, const void *buffer, size_t count, int flags)
{
	return epp(p, (unsigned char *)buffer, count, true, true);
}

static size_t epp_read_address(struct parport *p, void *buffer, size_t count, int flags)
{
	return epp(p, buffer, count, true, false);
}

static struct parport_operations operations = {
	.write_data = write_data,
	.read_data = read_data,
	.write_control = write_control,
	.read_control = read_control,
	.frob_control = frob_control,
	.read_status = read_status,
	.enable_irq = no_interrupt,
	.disable_irq = no_interrupt,
	.data_forward = data_forward,
	.data_reverse = data_reverse,
	.init_state = init_state,
	.save_state = save_state,
	.restore_state = restore_state,
	.epp_write_data = epp_write_data,
	.epp_read_data = epp_read_data,
	.epp_write_addr = epp_write_address,
	.epp_read_addr = epp_read_address,
	.ecp_write_data = parport_ieee1284_ecp_write_data,
	.ecp_read_data = parport_ieee1284_ecp_read_data,
	.ecp_write_addr = parport_ieee1284_ecp_write_addr,
	.compat_write_data = parport_ieee1284_write_compat,
	.nibble_read_data = parport_ieee1284_read_nibble,
	.byte_read_data = parport_ieee1284_read_byte,
	.owner = THIS_MODULE,
};

static ssize_t record_read(struct file *file, char __user *to, size_t count, loff_t *position)
{
	unsigned long flags;
	ssize_t result;
	size_t bytes;
	char *copy = kmalloc(RECORD_BYTES + 64, GFP_KERNEL);

	if (!copy)
		return -ENOMEM;
	bytes = scnprintf(copy, 64, "%s\n", port->name);
	spin_lock_irqsave(&lock, flags);
	memcpy(copy + bytes, record, recorded);
	bytes += recorded;
	spin_unlock_irqrestore(&lock, flags);
	result = simple_read_from_buffer(to, count, position, copy, bytes);
	kfree(copy);
	return result;
}

static ssize_t record_write(struct file *file, const char __user *from, size_t count, loff_t *position)
{
	char wanted;

	if (count == 0 || get_user(wanted, from))
		return -EFAULT;
	if (wanted != 'a' && wanted != 'n')
		return -EINVAL;
	empty(wanted == 'n');
	return count;
}

static const struct file_operations record_operations = {
	.owner = THIS_MODULE,
	.read = record_read,
	.write = record_write,
	.llseek = default_llseek,
};

static struct miscdevice record_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "epp_recorder",
	.fops = &record_operations,
};

static int __init recorder_start(void)
{
	int error;

	empty(false);
	port = parport_register_port(0, PARPORT_IRQ_NONE, PARPORT_DMA_NONE, &operations);
	if (!port)
		return -ENOMEM;
	port->modes = PARPORT_MODE_PCSPP | PARPORT_MODE_TRISTATE | PARPORT_MODE_EPP;
	error = misc_register(&record_device);
	if (error) {
		parport_put_port(port);
		return error;
	}
	port->dev = record_device.this_device;
	parport_announce_port(port);
	return 0;
}

static void __exit recorder_end(void)
{
	parport_remove_port(port);
	misc_deregister(&record_device);
	parport_put_port(port);
}

module_init(recorder_start);
module_exit(recorder_end);
MODULE_DESCRIPTION("A parallel port that records EPP cycles");
MODULE_LICENSE("Dual MIT/GPL");
