package chaos

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// network is a network of the harness's own: every broker, and the clients,
// has a network namespace with one device, and each packet that leaves one is
// read here and written to the one it is for, or delayed, or dropped. Nothing
// of it is seen outside, and nothing is left when the process ends.
type network struct {
	nodes []*sandbox // by broker; 0 is where the clients are
	rules atomic.Pointer[map[Link]rule]
	wg    sync.WaitGroup

	mu     sync.Mutex
	active map[int]applied // what rules was made of, by step

	dropped, delayed, passed, resets atomic.Int64 // packets
}

// rule is what happens to the packets of a link.
type rule struct {
	drop  bool
	reset bool
	delay time.Duration
	loss  float64
}

// applied is what a step does to links.
type applied struct {
	links []Link
	rule  rule
}

// sandbox is a network namespace and a mount namespace, which live as long as
// their descriptors here.
type sandbox struct {
	addr       [4]byte
	netns, mnt int
	tun        *os.File
	late       chan latePacket // packets that this node sent
}

type latePacket struct {
	due time.Time
	to  *os.File
	b   []byte
}

const (
	mtu = 32 << 10
	// peerPort is where etcd's members listen for each other, each at its own
	// address; they listen for others at the port below.
	peerPort = 9720
	// latePackets bounds what is on its way to a node; more is dropped, as a
	// router would.
	latePackets = 4096
)

// newNetwork makes a network of so many brokers. It needs root.
func newNetwork(brokers int) (*network, error) {
	n := &network{active: map[int]applied{}}
	n.rules.Store(&map[Link]rule{})
	for i := range brokers + 1 {
		s := &sandbox{addr: [4]byte{10, 88, 0, byte(i)}, late: make(chan latePacket, latePackets)}
		if i == 0 {
			s.addr[3] = 254
		}
		if err := s.open(); err != nil {
			n.close()
			return nil, fmt.Errorf("network of node %d: %w", i, err)
		}
		n.nodes = append(n.nodes, s)
	}
	for i, s := range n.nodes {
		n.wg.Go(func() { n.forward(i, s) })
		n.wg.Go(s.deliver)
	}
	return n, nil
}

func (n *network) close() {
	for _, s := range n.nodes {
		s.tun.Close()
	}
	n.wg.Wait()
	for _, s := range n.nodes {
		unix.Close(s.netns)
		unix.Close(s.mnt)
	}
}

// set puts a rule on links for as long as a step lasts.
func (n *network) set(step int, links []Link, r rule) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.active[step] = applied{links, r}
	n.compile()
}

// clear takes away what a step did.
func (n *network) clear(step int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.active, step)
	n.compile()
}

func (n *network) compile() {
	rules := map[Link]rule{}
	for _, a := range n.active {
		for _, l := range a.links {
			rules[l] = rules[l].and(a.rule)
		}
	}
	n.rules.Store(&rules)
}

func (r rule) and(o rule) rule {
	return rule{drop: r.drop || o.drop, reset: r.reset || o.reset, delay: max(r.delay, o.delay), loss: max(r.loss, o.loss)}
}

// of gives the node that has an address; -1 for none.
func (n *network) of(addr []byte) int {
	if addr[0] != 10 || addr[1] != 88 || addr[2] != 0 {
		return -1
	}
	if addr[3] == 254 {
		return 0
	}
	if int(addr[3]) < len(n.nodes) {
		return int(addr[3])
	}
	return -1
}

// forward reads what node from sends, until its device is closed.
func (n *network) forward(from int, s *sandbox) {
	buf := make([]byte, mtu)
	rnd := rand.New(rand.NewPCG(uint64(from), 1))
	for {
		size, err := s.tun.Read(buf)
		if err != nil {
			close(s.late)
			return
		}
		b := buf[:size]
		if size < 20 || b[0]>>4 != 4 {
			continue
		}
		to := n.of(b[16:20])
		if to < 0 {
			continue
		}
		r := n.rule(from, to, portOf(b))
		switch {
		case r.drop, r.loss > 0 && rnd.Float64() < r.loss:
			n.dropped.Add(1)
		case r.reset:
			if b = asReset(b); b != nil {
				n.resets.Add(1)
				n.nodes[to].tun.Write(b)
			}
		case r.delay > 0:
			n.delayed.Add(1)
			// The sender's queue, so that its packets to one node stay in order.
			select {
			case s.late <- latePacket{time.Now().Add(r.delay), n.nodes[to].tun, append([]byte(nil), b...)}:
			default:
				n.dropped.Add(1)
			}
		default:
			n.passed.Add(1)
			n.nodes[to].tun.Write(b) // a full queue drops it
		}
	}
}

// rule adds up the rules that a packet falls under.
func (n *network) rule(from, to int, port Port) rule {
	rules := *n.rules.Load()
	if len(rules) == 0 {
		return rule{}
	}
	return rules[Link{from, to, AnyPort}].and(rules[Link{from, to, port}])
}

// portOf tells connections to etcd's members, at peerPort and the one below it,
// from others.
func portOf(b []byte) Port {
	head := int(b[0]&15) * 4
	if b[9] != unix.IPPROTO_TCP || len(b) < head+4 {
		return KafkaPort
	}
	for _, port := range []uint16{binary.BigEndian.Uint16(b[head:]), binary.BigEndian.Uint16(b[head+2:])} {
		if port == peerPort || port == peerPort-1 {
			return PeerPort
		}
	}
	return KafkaPort
}

// asReset makes of a TCP packet one that resets its connection at the receiver
// (RFC 9293, 3.5.2: the sequence number is the one that is expected next); nil
// of another packet, and of one that begins a connection.
func asReset(b []byte) []byte {
	const syn, rst = 2, 4
	head := int(b[0]&15) * 4
	if b[9] != unix.IPPROTO_TCP || len(b) < head+20 || b[head+13]&syn != 0 {
		return nil
	}
	b = b[:head+20]
	tcp := b[head:]
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	b[10], b[11] = 0, 0
	binary.BigEndian.PutUint16(b[10:], ^sum(0, b[:head]))
	tcp[12], tcp[13] = 5<<4, tcp[13]&16|rst // its length in words; ACK stays
	tcp[16], tcp[17] = 0, 0
	pseudo := sum(uint32(unix.IPPROTO_TCP)+20, b[12:20])
	binary.BigEndian.PutUint16(tcp[16:], ^sum(uint32(pseudo), tcp))
	return b
}

// sum is the Internet checksum's sum (RFC 1071) of b, added to from.
func sum(from uint32, b []byte) uint16 {
	for ; len(b) > 1; b = b[2:] {
		from += uint32(binary.BigEndian.Uint16(b))
	}
	for from > 0xffff {
		from = from>>16 + from&0xffff
	}
	return uint16(from)
}

// deliver writes what is late, until forward has ended.
func (s *sandbox) deliver() {
	for p := range s.late {
		time.Sleep(time.Until(p.due))
		p.to.Write(p.b) // a full queue drops it
	}
}

// open makes the namespaces, and the device in the first.
func (s *sandbox) open() error {
	return onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("a namespace of its own: %w", err)
		}
		if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return fmt.Errorf("mounts of its own: %w", err)
		}
		var err error
		if s.netns, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
			return err
		}
		if s.mnt, err = unix.Open("/proc/thread-self/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
			return err
		}
		if s.tun, err = openTun(s.addr); err != nil {
			return fmt.Errorf("a device: %w", err)
		}
		return configure("lo", [4]byte{127, 0, 0, 1}, 65536)
	})
}

// onThread runs f on a thread that ends with it, so that what f does to the
// thread is seen by nothing else.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for good
		done <- f()
	}()
	return <-done
}

// do runs f on a thread that is in the sandbox. Paths have to be absolute.
func (s *sandbox) do(f func() error) error {
	return onThread(func() error {
		err := unix.Unshare(unix.CLONE_FS)
		if err == nil {
			err = errors.Join(unix.Setns(s.netns, unix.CLONE_NEWNET), unix.Setns(s.mnt, unix.CLONE_NEWNS))
		}
		if err != nil {
			return fmt.Errorf("enter the sandbox: %w", err)
		}
		return f()
	})
}

// dial connects from within the sandbox.
func (s *sandbox) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	var c net.Conn
	err := s.do(func() (err error) {
		c, err = (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, network, addr)
		return err
	})
	return c, err
}

// disk mounts a tmpfs of so many bytes at dir, for this sandbox only.
func (s *sandbox) disk(dir string, size int64) error {
	return s.do(func() error {
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
			return fmt.Errorf("a disk at %s: %w", dir, err)
		}
		return nil
	})
}

func openTun(addr [4]byte) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	ifr, err := unix.NewIfreq("firn0")
	if err == nil {
		ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}
	if err == nil {
		err = configure("firn0", addr, mtu)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "tun"), nil
}

// configure gives a device its address, in a network of 256, and brings it up.
func configure(name string, addr [4]byte, mtu uint32) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, step := range []struct {
		request uint
		set     func(*unix.Ifreq) error
	}{
		{unix.SIOCSIFADDR, func(r *unix.Ifreq) error { return r.SetInet4Addr(addr[:]) }},
		{unix.SIOCSIFNETMASK, func(r *unix.Ifreq) error { return r.SetInet4Addr([]byte{255, 255, 255, 0}) }},
		{unix.SIOCSIFMTU, func(r *unix.Ifreq) error { r.SetUint32(mtu); return nil }},
		{unix.SIOCSIFFLAGS, func(r *unix.Ifreq) error { r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING); return nil }},
	} {
		r, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		if err := step.set(r); err != nil {
			return err
		}
		if err := unix.IoctlIfreq(fd, step.request, r); err != nil {
			return fmt.Errorf("device %s: %w", name, err)
		}
	}
	return nil
}
