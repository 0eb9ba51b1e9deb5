// The command gonoop is noop.c in Go: what a plugin that does nothing costs when
// it is written as most are.
package main

import (
	"io"
	"os"
	"path/filepath"
	"time"
)

const result = `{"cniVersion":"1.0.0",` +
	`"interfaces":[{"name":"eth0","mac":"02:00:00:00:00:01","sandbox":"/run/netns/pod"}],` +
	`"ips":[{"interface":0,"address":"10.1.2.3/24","gateway":"10.1.2.1"}],` +
	`"routes":[{"dst":"0.0.0.0/0","gw":"10.1.2.1"}],"dns":{}}` + "\n"

const versions = `{"cniVersion":"1.1.0","supportedVersions":["0.3.1","0.4.0","1.0.0","1.1.0"]}` + "\n"

func main() {
	if err := run(); err != nil {
		os.Exit(1)
	}
}

func run() error {
	if path := os.Getenv("NOOP_COUNT"); path != "" {
		file, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
		if err != nil {
			return err
		}
		if _, err := file.WriteString("."); err != nil {
			return err
		}
		if err := file.Close(); err != nil {
			return err
		}
	}
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	var answer string
	switch os.Getenv("CNI_COMMAND") {
	case "ADD":
		switch filepath.Base(os.Args[0]) {
		case "hang":
			<-time.After(time.Hour)
		case "slow":
			<-time.After(20 * time.Millisecond)
		}
		answer = result
	case "VERSION":
		answer = versions
	}
	_, err := os.Stdout.WriteString(answer)
	return err
}
