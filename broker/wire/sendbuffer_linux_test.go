package wire

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func kernelBuffer(t *testing.T, tcp *net.TCPConn) (size int, locked bool) {
	t.Helper()
	err := control(tcp, func(fd int) error {
		lock, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BUF_LOCK)
		locked = err != nil || lock&unix.SOCK_SNDBUF_LOCK != 0
		size, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return size, locked
}

// What is configured is what the kernel has, which doubles it; on a connection
// of this machine the size that follows the connection is the first one.
func TestSendBufferOfAConnection(t *testing.T) {
	file, _ := fetchFile(t, 8<<20)
	defer releaseOwner(t, file)
	for _, c := range []struct {
		configured int
		want       int
		locked     bool
	}{
		{0, 2 * nearBuffer, true},
		{102400, 204800, true},
		{1 << 20, 2 << 20, true},
		{-1, 0, false},
	} {
		s := startServer(t, Config{SendBuffer: c.configured}, fetchHandler(file, 8<<20))
		nc := s.dial()
		for i := range int32(20) {
			nc.Write(frame(i, fetchRequest(11)))
			if _, _, err := readReply(nc); err != nil {
				t.Fatal(err)
			}
		}
		size, locked := kernelBuffer(t, tcpOf(s.serverSide(t)))
		if locked != c.locked || c.want > 0 && c.configured != 0 && size != c.want || c.configured == 0 && size < c.want {
			t.Errorf("configured %d: %d bytes, locked %v", c.configured, size, locked)
		}
		nc.Close()
		closeNow(t, s)
	}
	if n := mSendBuffer.Get(); n != 0 {
		t.Errorf("%v bytes of buffers are left after all connections", n)
	}
}

// Where the kernel does not allow what a connection needs, its own sizing is
// let loose; a size that it allows holds again.
func TestSendBufferOverTheKernelsLimit(t *testing.T) {
	s := startServer(t, Config{}, echo)
	defer s.dial().Close()
	tcp := tcpOf(s.serverSide(t))
	if !resizeBuffer(tcp, 1<<29) {
		t.Fatal("the size was not taken at all")
	}
	if _, locked := kernelBuffer(t, tcp); locked {
		t.Error("the kernel may not make the buffer larger")
	}
	if !resizeBuffer(tcp, nearBuffer) {
		t.Fatal("the size was not taken")
	}
	if size, locked := kernelBuffer(t, tcp); size != 2*nearBuffer || !locked {
		t.Errorf("%d bytes, locked %v", size, locked)
	}
}

// A consumer that is 40 ms away is not held back by the buffer of a near one:
// the buffer grows with what is on its way, and the bytes are right.
func TestSendBufferFollowsTheDistance(t *testing.T) {
	const size = 8 << 20
	file, data := fetchFile(t, size)
	defer releaseOwner(t, file)
	onDelayedNetwork(t, 20*time.Millisecond, func(local, remote string) {
		s := startServerOn(t, Config{}, fetchHandler(file, size), "tcp", local+":0")
		defer closeNow(t, s)
		_, port, _ := net.SplitHostPort(s.addr)
		nc, err := net.Dial("tcp", net.JoinHostPort(remote, port))
		if err != nil {
			t.Error(err)
			return
		}
		defer nc.Close()
		nc.SetDeadline(time.Now().Add(time.Minute))
		for i := range int32(8) {
			nc.Write(frame(i, fetchRequest(11)))
			_, b, err := readReply(nc)
			if err != nil || !bytes.HasSuffix(b, data) {
				t.Errorf("reply %d of %d bytes: %v", i, len(b), err)
				return
			}
		}
		c := s.serverSide(t)
		p := pathTo(tcpOf(c))
		got, _ := kernelBuffer(t, tcpOf(c))
		t.Logf("%d bytes in the kernel for %+v", got, p)
		if p.rtt < 40*time.Millisecond {
			t.Errorf("a round trip took %v: the network is not as this test wants it", p.rtt)
		}
		if got < 4*nearBuffer {
			t.Errorf("%d bytes for %+v", got, p)
		}
	})
}

// onDelayedNetwork runs f on a thread in a network of its own, where what is
// sent to remote comes back to local as if from there, after delay.
func onDelayedNetwork(t *testing.T, delay time.Duration, f func(local, remote string)) {
	t.Helper()
	skip := make(chan string, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good: the thread ends with its network
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			skip <- fmt.Sprintf("no network of its own: %v", err)
			return
		}
		tun, err := openTun([4]byte{10, 99, 0, 1})
		if err != nil {
			skip <- fmt.Sprintf("no tunnel: %v", err)
			return
		}
		var running sync.WaitGroup
		running.Go(func() { reflectLate(tun, delay) })
		defer running.Wait()
		defer tun.Close()
		f("10.99.0.1", "10.99.0.2")
	}()
	<-done
	select {
	case why := <-skip:
		t.Skip(why)
	default:
	}
}

// openTun makes a network device whose packets are read and written here.
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
		err = configureDevice("firn0", addr)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "tun"), nil
}

func configureDevice(name string, addr [4]byte) error {
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
		{unix.SIOCSIFMTU, func(r *unix.Ifreq) error { r.SetUint32(9000); return nil }},
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
			return err
		}
	}
	return nil
}

// reflectLate sends packets back with their addresses exchanged, after delay,
// until tun is closed.
func reflectLate(tun io.ReadWriter, delay time.Duration) {
	type packet struct {
		due time.Time
		b   []byte
	}
	late := make(chan packet, 4096) // further ones wait in the device's queue, and are dropped there
	var running sync.WaitGroup
	running.Go(func() {
		for p := range late {
			time.Sleep(time.Until(p.due))
			tun.Write(p.b)
		}
	})
	for {
		b := make([]byte, 9000)
		n, err := tun.Read(b)
		if err != nil {
			break
		}
		if b = b[:n]; n < 20 || b[0]>>4 != 4 {
			continue
		}
		var src [4]byte
		copy(src[:], b[12:])
		copy(b[12:16], b[16:20])
		copy(b[16:20], src[:])
		late <- packet{time.Now().Add(delay), b}
	}
	close(late)
	running.Wait()
}
