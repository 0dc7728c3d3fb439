//go:build !linux

package wire

import (
	"net"

	"github.com/firnlog/firn/record"
)

// Elsewhere everything is copied and read through the net package: sendfile's
// calling conventions differ, and brokers run on Linux.
const rawSockets = false

func readSocket(uintptr, []byte) (int, bool, error) { panic("not reached: rawSockets is false") }

func (s *sender) sendfile(sp record.Span) error { return s.copyFile(sp) }

func (s *sender) flushMore() error { return s.flush() }

type transfer struct{}

// The buffer keeps its first size: elsewhere TCP_INFO differs.
func pathTo(*net.TCPConn) path { return path{} }

func resizeBuffer(*net.TCPConn, int) bool { return false }
