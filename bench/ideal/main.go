// Command ideal is the bare server that brokers are measured against: the
// least that one can do with a Produce request and still keep its bytes, and
// with a Fetch request and still send them. It answers the requests of
// bench/blast and nothing else, trusts what it reads, keeps no promise after a
// restart, and is no part of Firn.
//
//	produce   frame → crc32c → one write → answer
//	          topics with flush.messages=1: all partitions share one file,
//	          and one fdatasync lets go all the answers whose writes came
//	          before it
//	fetch     file → socket by sendfile with an explicit offset, or (-copy)
//	          through a buffer, with a send buffer of -sndbuf bytes
//
// Its index of batches is in memory.
package main

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	var o options
	addr := flag.String("kafka", "127.0.0.1:9092", "HOST:PORT to listen on")
	flag.StringVar(&o.dir, "data", "", "folder for its files, made if it is not there")
	flag.BoolVar(&o.copy, "copy", false, "answer fetches by copying instead of sendfile")
	flag.IntVar(&o.sndbuf, "sndbuf", 200<<10, "SO_SNDBUF of connections; 0 leaves it to the kernel")
	flag.Parse()
	if err := run(*addr, o); err != nil {
		fmt.Fprintln(os.Stderr, "ideal:", err)
		os.Exit(1)
	}
}

func run(addr string, o options) error {
	if o.dir == "" {
		return errors.New("-data is missing")
	}
	s, err := newServer(o)
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, os.Interrupt)
	go func() {
		<-signals
		ln.Close()
	}()
	return s.serve(ln)
}
