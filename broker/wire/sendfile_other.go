//go:build !linux

package wire

import "github.com/firnlog/firn/record"

// Elsewhere everything is copied: sendfile's calling conventions differ, and
// brokers run on Linux.
const haveSendfile = false

func (s *sender) sendfile(sp record.Span) error { return s.copyFile(sp) }

func (s *sender) flushMore() error { return s.flush() }
